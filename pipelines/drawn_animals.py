"""The sheets of the README: a model of drawn animal faces.

Command:  python pipelines/drawn_animals.py
Hardware: 2 CPU cores
Time:     32 minutes
Expected: see README.md, "What to expect"
"""

from pixace_tf.demo import run_demo

if __name__ == "__main__":
    run_demo(folder=".", max_minutes=30.0, count=4000)
