"""A folder of photos on one 10 GB card, at the size of the 2020 original.

Command:  python pipelines/folder_on_gpu.py FOLDER
Hardware: one GPU with 10 GB
Time:     8 hours
Expected: not measured yet
"""

import sys

from pixace_tf import TrainingArguments, fit

if __name__ == "__main__":
    arguments = TrainingArguments(preset="base", max_minutes=480, dropout=0.1)
    fit(sys.argv[1], arguments)
