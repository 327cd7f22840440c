"""Drawn animal faces of 64x64 pixels: 4,096 tokens, by the reformer.

Command:  python pipelines/bigger_pictures.py
Hardware: 2 CPU cores
Time:     50 minutes
Expected: not measured yet
"""

from pixace_tf.demo import run_demo

if __name__ == "__main__":
    run_demo(
        folder="bigger-animals",
        max_minutes=45.0,
        count=4000,
        image_size=(64, 64),
        decoder="reformer",
    )
