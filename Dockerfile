# Alertwell's image. The first stage makes a virtual environment, the second receives that and nothing else:
# no compiler, no installer, no source tree. Build it with: docker build -t alertwell .
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --root-user-action=ignore "uv==${UV_VERSION}" \
 && python -m venv --without-pip /opt/venv
WORKDIR /src
# Dependencies first: they change seldom, so this layer is usually there already. Wheels only, each with its hash.
COPY requirements.lock requirements-dev.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/venv --no-build --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY migrations ./migrations
COPY service ./service
# The wheel's own build tool is held to the hashes of the development lock.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv build --wheel --out-dir /dist --build-constraints requirements-dev.lock --require-hashes \
 && uv pip install --python /opt/venv --no-deps /dist/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Alertwell" \
      org.opencontainers.image.description="Every Microsoft Defender alert of every customer tenant, once, in PostgreSQL, with the proof."
# The folders are where docker-compose.yml mounts volumes: a new volume takes owner and mode from the image.
RUN groupadd --gid 10001 alertwell \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/alertwell --no-create-home --shell /usr/sbin/nologin alertwell \
 && install -d -o alertwell -g alertwell -m 0755 /var/lib/alertwell /var/lib/alertwell/database \
      /var/lib/alertwell/sealing /var/lib/alertwell/simulator
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
# Proves that the image starts, and leaves compiled what it needs of the standard library: a read-only root cannot keep that.
RUN alertwell --help > /dev/null
ENV PYTHONDONTWRITEBYTECODE=1 \
    ALERTWELL_HTTP_HOST=0.0.0.0 \
    ALERTWELL_HTTP_PORT=8080
USER 10001:10001
WORKDIR /var/lib/alertwell
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["alertwell", "healthcheck"]
ENTRYPOINT ["alertwell"]
CMD ["run"]
