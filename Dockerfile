# Train:  docker build -t pixace-tf .
#         docker run --rm -it --user "$(id -u):$(id -g)" -v "$PWD:/work" \
#             pixace-tf fit data/animals
#         With a GPU: build with --build-arg EXTRAS='[gpu]', run with --gpus all.
# Serve:  docker build --target serve --build-arg RUN=saved_models/animals \
#             -t animals .
#         docker run --rm -p 8500:8500 -p 8501:8501 animals

# The exported versions of one run, in a stock TensorFlow Serving.
FROM tensorflow/serving:2.20.0 AS serve
ARG RUN
ENV MODEL_NAME=model
COPY serving /config
COPY ${RUN} /models/model
CMD ["--enable_batching=true", \
     "--batching_parameters_file=/config/batching.txt", \
     "--monitoring_config_file=/config/monitoring.txt", \
     "--rest_api_timeout_in_ms=600000"]

FROM python:3.12-slim AS train
ARG EXTRAS=""
COPY setup.cfg pyproject.toml README.md LICENSE /opt/pixace-tf/
COPY pixace_tf /opt/pixace-tf/pixace_tf
RUN pip install --no-cache-dir "/opt/pixace-tf${EXTRAS}"
# A home folder for users without an account in the image.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["pixace-tf"]
CMD ["--help"]
