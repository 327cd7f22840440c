"""A better model of drawn animal faces than the demo has time for.

Command:  python pipelines/drawn_animals.py
Hardware: 2 CPU cores
Time:     32 minutes
Expected: not measured yet
"""

from pixace_tf.demo import run_demo

if __name__ == "__main__":
    run_demo(folder="drawn-animals", max_minutes=30.0, count=4000)
