"""The honest account of a model: figures, rivals, and a page to read.

    evidence = gather(run, images, labels)
    measured = measure(evidence)             # likelihood and palette
    account = illustrate(evidence, measured) # draws, compares, looks inside
    write_report(account, "report")

Scikit-learn and scikit-image are used where they are installed.
"""

from pixace_tf.evaluation.account import (
    Evidence,
    Measurement,
    gather,
    measure,
)
from pixace_tf.evaluation.features import load_network
from pixace_tf.evaluation.illustrations import Account, illustrate
from pixace_tf.evaluation.report_folder import check_folder, write_report
from pixace_tf.evaluation.summary import summary

__all__ = [
    "Account",
    "Evidence",
    "Measurement",
    "check_folder",
    "gather",
    "illustrate",
    "load_network",
    "measure",
    "summary",
    "write_report",
]
