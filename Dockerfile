# CPU image whose entry point is resprune:
#   docker build -t resprune .
#   docker run --rm -v "$PWD:/work" resprune prune ckpt.pth --tol 1e-3 --data images --out pruned
ARG BASE=python:3.12-slim
FROM ${BASE}

# PyTorch's CPU builds of torch and torchvision spare some 5 GB; for a CUDA base give
# --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.10" "torchvision>=0.25"

COPY pyproject.toml README.md LICENSE /src/
COPY resprune /src/resprune
RUN python3 -m pip install --no-cache-dir /src && rm -rf /src

RUN useradd --create-home --uid 1000 resprune
USER resprune
WORKDIR /work
ENTRYPOINT ["resprune"]
CMD ["--help"]
