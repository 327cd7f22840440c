"""Writes the chunks of a tokenizing job on Apache Beam."""

from collections.abc import Iterator, Sequence

from pixace_tf.data import tokenizing
from pixace_tf.data.tokenizing import Job
from pixace_tf.errors import UserError

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError:
    raise UserError(
        "Apache Beam is not installed: pip install 'pixace-tf[beam]'"
    ) from None


class BeamRunner:
    """Writes chunks on the workers of a Beam runner such as `DirectRunner`.

    They must see the images and the shards at the same paths as this process.
    Beam options are `NAME=VALUE` each.
    """

    def __init__(self, runner: str, options: Sequence[str] = ()) -> None:
        flags = [f"--runner={runner}", *(f"--{option}" for option in options)]
        self._options = PipelineOptions(flags, save_main_session=False)

    def __call__(self, job: Job, chunks: Sequence[int]) -> None:
        """Write some chunks of a job."""
        with beam.Pipeline(options=self._options) as pipeline:
            _ = (
                pipeline
                | beam.Create(list(chunks))
                | beam.Reshuffle()
                | beam.ParDo(_WriteChunk(job))
            )


class _WriteChunk(beam.DoFn):
    """Writes one chunk; each worker opens the images once."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def setup(self) -> None:
        """Open the images, which must still be those of the plan."""
        self._job.check_plan()

    def process(self, chunk: int) -> Iterator[int]:
        tokenizing.write_chunk(self._job, chunk)
        yield chunk
