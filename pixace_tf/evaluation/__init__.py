"""How good a model is: figures for everyone, and a report to look at.

    evidence = gather(run, images, labels)          # evidence.py
    measurement = measure(evidence)                 # metrics.py
    report = build_report(evidence, measurement)    # report.py
    write_report(report, "folder")
    find_outliers(evidence, measurement.bits, names)  # outliers.py

The report needs the packages of `pip install 'pixace-tf[evaluate]'`.
"""
