# One image for every function: FUNCTION_SOURCE and FUNCTION_TARGET say which one it is.
#   docker build --build-arg BASE=python:3.12-slim@sha256:... .      (cloudbuild.yaml names the newest base by its digest)
ARG BASE=python:3.12-slim
FROM ${BASE} AS made
WORKDIR /carefolio
RUN python -m venv /venv
COPY requirements-image.lock ./
RUN /venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-image.lock
COPY shared ./shared
COPY functions ./functions
# Takes it to an environment (scripts/deploy.yaml).
COPY scripts/rollout.py ./scripts/
RUN /venv/bin/python -m compileall -q /venv/lib shared functions

FROM ${BASE}
# GnuPG decrypts the GP extracts.
RUN apt-get update && apt-get upgrade -y && apt-get install -y --no-install-recommends gnupg \
    && rm -rf /var/lib/apt/lists/* && useradd --system --no-create-home --uid 10001 carefolio
COPY --from=made /venv /venv
COPY --from=made /carefolio /carefolio
WORKDIR /carefolio
ENV PATH=/venv/bin:$PATH PYTHONPATH=/carefolio/shared PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER carefolio
# Reads PORT, FUNCTION_SOURCE and FUNCTION_TARGET; migrations are `python -m carefolio.cli migrate` in the same image.
CMD ["functions-framework"]
