# A server with the model that ships with Decant, on the processor:
#     docker build -t decant . && docker run -p 8080:8080 -p 50051:50051 -v ./index:/index decant --store /index

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/decant
ENV PATH=/opt/decant/bin:$PATH
# torch first and alone: the largest layer, and the one that changes least.
COPY constraints.txt ./
# More for pip, such as the index that has PyTorch without CUDA.
ARG TORCH_PIP_OPTIONS=""
RUN pip install --no-cache-dir $TORCH_PIP_OPTIONS "$(grep '^torch==' constraints.txt)"
COPY . .
RUN pip install --no-cache-dir -c constraints.txt .

FROM python:3.11-slim
COPY --from=build /opt/decant /opt/decant
ENV PATH=/opt/decant/bin:$PATH HF_HUB_OFFLINE=1 DECANT_HOST=0.0.0.0
RUN useradd --system --create-home decant
USER decant
WORKDIR /home/decant
EXPOSE 8080 50051
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=5)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["decant", "serve"]
