# Build:  docker build -t pixace-tf .
# Train:  docker run --rm -it -v "$PWD:/work" pixace-tf fit data/animals
# With a GPU: docker build --build-arg EXTRAS='[gpu]' -t pixace-tf . and add
# --gpus all to the run.
FROM python:3.12-slim
ARG EXTRAS=""
COPY . /opt/pixace-tf
RUN pip install --no-cache-dir "/opt/pixace-tf${EXTRAS}"
WORKDIR /work
ENTRYPOINT ["pixace-tf"]
CMD ["--help"]
