# The serving image: the server, the networks in models/ and what serving needs. No compiler, no package manager of its
# own, no TensorFlow. Needs nothing but the classic builder:
#
#   docker build --tag foldserve .
#   docker run --rm --publish 8000:8000 --read-only --cap-drop ALL --security-opt no-new-privileges foldserve
#
# Behind a package mirror, give pip its settings as build arguments (--build-arg PIP_INDEX_URL, --build-arg PIP_CERT,
# with or without a value): pip reads them from the environment, and none of them reaches the final image.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_CERT
# requirements/serve-gpu.txt makes an image for NVIDIA GPUs (docker run --gpus all --env FOLDSERVE_PROVIDER=cuda). An
# argument rather than a stage for --target, since the classic builder would make both stages whichever is asked for.
ARG REQUIREMENTS=requirements/serve.txt
WORKDIR /app
COPY requirements requirements
# The environment has no pip: the one of the base image installs into it. Bytecode is made here, since the file system
# may be read-only later. The packages' own tests are 8 MB that nothing imports.
RUN python -m venv --without-pip .venv \
 && python -m pip --python .venv/bin/python install --no-cache-dir --disable-pip-version-check --root-user-action ignore \
      --require-hashes --only-binary :all: --requirement "${REQUIREMENTS}" \
 && find .venv -type d -name tests -prune -exec rm -rf {} +
# The software bill of materials: what is in the environment, by CycloneDX 1.6, and the same for the same packages. The
# program that writes it is not in the image.
RUN python -m venv --without-pip /opt/sbom \
 && python -m pip --python /opt/sbom/bin/python install --no-cache-dir --disable-pip-version-check \
      --root-user-action ignore --require-hashes --only-binary :all: --requirement requirements/sbom.txt
COPY pyproject.toml .
RUN mkdir /usr/share/sbom \
 && /opt/sbom/bin/cyclonedx-py environment --spec-version 1.6 --output-reproducible --pyproject pyproject.toml \
      --output-file /usr/share/sbom/foldserve.cdx.json .venv/bin/python
COPY bundle bundle
COPY drift drift
COPY pictures pictures
COPY service service
COPY models models
# Whatever the modes in the checkout: readable by the server's user, writable by nobody but root.
RUN .venv/bin/python -m compileall -q bundle drift pictures service \
 && chmod -R u=rwX,go=rX bundle drift pictures service models

FROM ${PYTHON_IMAGE}
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    FOLDSERVE_HOST=0.0.0.0 \
    FOLDSERVE_PORT=8000
WORKDIR /app
# The same path in both stages: an environment's scripts name their interpreter.
COPY --from=build /app/.venv .venv
COPY --from=build /usr/share/sbom /usr/share/sbom
COPY --from=build /app/bundle bundle
COPY --from=build /app/drift drift
COPY --from=build /app/pictures pictures
COPY --from=build /app/service service
COPY --from=build /app/models models
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"FOLDSERVE_PORT\"]}/v2/health/ready', timeout=4)"]
CMD ["python", "-m", "service"]
# Last, since a new revision then makes no new layers.
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="Foldserve" \
      org.opencontainers.image.description="Serves networks whose batch normalisation was folded exactly, over REST" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
