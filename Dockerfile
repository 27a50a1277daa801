# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build --target cpu -t vision-infer:cpu .
#   docker build --target gpu -t vision-infer:gpu .
# For Kubernetes (deploy/kubernetes), both with Ray:
#   docker build --target cpu --build-arg EXTRAS=serve,kuberay -t vision-infer:cluster-cpu .
#   docker build --target gpu --build-arg EXTRAS=serve,kuberay -t vision-infer:cluster-gpu .
# CUDA, cuDNN and TensorRT are Python packages, so both start from the same image. The GPU image needs a host with a driver for
# CUDA 13 (580 or newer).

ARG PYTHON_IMAGE=python:3.13-slim-trixie
# tensorrt: for all GPUs; the build downloads it from NVIDIA's index. Or tensorrt-rtx: for consumer GPUs.
ARG TENSORRT=tensorrt
# The extras of both images.
ARG EXTRAS=serve,kafka,nats,redis,amqp,grpc,notify,oidc,otel


# Build the wheel. .dockerignore lists the files that can be copied.
FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY engines engines
COPY capacity capacity
COPY vision_infer vision_infer
RUN pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheel .


# Create the environments in separate stages, so that the images contain neither the wheel nor build tools.
FROM ${PYTHON_IMAGE} AS cpu-environment
ARG EXTRAS
COPY --from=wheel /src/constraints.txt /wheel/*.whl /wheel/
RUN python -m venv /opt/vision-infer \
 && wheel=$(echo /wheel/vision_infer-*.whl) \
 && /opt/vision-infer/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
      --constraint /wheel/constraints.txt "vision-infer[cpu,${EXTRAS}] @ file://${wheel}"


# TensorRT's packages are sources that only name or download the wheels; nothing is compiled.
FROM ${PYTHON_IMAGE} AS gpu-environment
ARG TENSORRT
ARG EXTRAS
COPY --from=wheel /src/constraints.txt /wheel/*.whl /wheel/
RUN python -m venv /opt/vision-infer \
 && wheel=$(echo /wheel/vision_infer-*.whl) \
 && /opt/vision-infer/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
      --no-binary tensorrt-cu13,tensorrt-cu13-libs,tensorrt-rtx-cu13 \
      --constraint /wheel/constraints.txt "vision-infer[gpu,${EXTRAS},${TENSORRT}] @ file://${wheel}"


FROM ${PYTHON_IMAGE} AS gpu
LABEL org.opencontainers.image.title="vision-infer (CUDA)" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 vision-infer \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/vision-infer --shell /usr/sbin/nologin vision-infer \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/vision-infer
COPY --from=gpu-environment /opt/vision-infer /opt/vision-infer
# ORT_DISABLE_TELEMETRY disables the telemetry of ONNX Runtime.
ENV PATH=/opt/vision-infer/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    VISION_INFER_HOME=/var/lib/vision-infer \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
# The only writable folder: streams created over the API, the hash of the token, imported models. The root file system can be read-only.
VOLUME /var/lib/vision-infer
WORKDIR /var/lib/vision-infer
USER 10001:10001
EXPOSE 8080 8189/udp 8189/tcp
STOPSIGNAL SIGTERM
# http.client ignores proxy settings. With TLS, use the check in docs/how-to/deploy.md.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-IS", "-c", "import http.client; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["vision-infer"]
CMD ["serve", "/etc/vision-infer/cameras.yaml", "--host", "0.0.0.0"]


# The last stage is the default target.
FROM ${PYTHON_IMAGE} AS cpu
LABEL org.opencontainers.image.title="vision-infer" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 vision-infer \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/vision-infer --shell /usr/sbin/nologin vision-infer \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/vision-infer
COPY --from=cpu-environment /opt/vision-infer /opt/vision-infer
# See the gpu stage.
ENV PATH=/opt/vision-infer/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    VISION_INFER_HOME=/var/lib/vision-infer
VOLUME /var/lib/vision-infer
WORKDIR /var/lib/vision-infer
USER 10001:10001
EXPOSE 8080 8189/udp 8189/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-IS", "-c", "import http.client; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["vision-infer"]
CMD ["serve", "/etc/vision-infer/cameras.yaml", "--host", "0.0.0.0"]
