# The appliance: what the lock file says and the program are installed in stages of their own; the last stage holds the
# results and no tools to make more of them. Builds for aarch64 and x86-64, with CUDA or without (LOCK=cpu).
#
# BASE_IMAGE is a tag, so that a rebuild brings Debian's security updates. Whoever wants the same bytes every time pins
# a digest: docs/upgrade.md, "The base image".
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS libraries
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Debian's versions move with its security updates; the base image says which Debian.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# cpu, cuda or spark; empty takes the one for this architecture with CUDA.
ARG LOCK=""
ARG TARGETARCH
# Where LOCK=cpu finds torch; empty is the index that pip uses anyhow.
ARG TORCH_INDEX=""
# More words for pip, such as --no-index where requirements/wheels/ holds everything.
ARG PIP_OPTIONS=""
COPY requirements/*.lock requirements/cpu-torch.txt /build/requirements/
WORKDIR /build
# The words of PIP_OPTIONS are meant to be split.
# hadolint ignore=SC2086
RUN --mount=type=bind,source=requirements/wheels,target=/wheels \
    lock="${LOCK:-$(if [ "$TARGETARCH" = arm64 ]; then echo spark; else echo cuda; fi)}" \
    && python3 -m venv /venv \
    && /venv/bin/pip install --quiet --no-deps --require-hashes --find-links /wheels ${PIP_OPTIONS} \
        --requirement "requirements/$lock.lock" \
    && if [ "$lock" = cpu ]; then \
        /venv/bin/pip install --quiet --no-deps --find-links /wheels ${PIP_OPTIONS} \
            ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement requirements/cpu-torch.txt; \
    fi
# Nothing is installed into a running container.
RUN /venv/bin/pip uninstall --quiet --yes pip


# The appliance itself in a layer of its own: an upgrade of it moves a few megabytes, not the training stack.
FROM libraries AS program
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY appliance appliance
RUN /venv/bin/python -m ensurepip \
    && /venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --no-index --target /app .
# The commit that this is, for whoever asks the appliance or reads where an adapter comes from.
ARG REVISION=""
RUN echo "$REVISION" >/app/appliance/REVISION


FROM ${BASE_IMAGE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# gcc and Python's headers: Triton compiles a small launcher for each kernel on the machine that it runs on.
# libnss-extrausers: the names of people who use the share, whose accounts live in the share's own container.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev libnss-extrausers libpython3-dev python3 tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && sed -i 's/^\(passwd\|group\):.*/\1: files extrausers/' /etc/nsswitch.conf \
    && mkdir -p /var/lib/extrausers \
    && install --directory --mode 0777 /srv/inbox /srv/outbox /srv/state /srv/models
COPY --from=libraries /venv /venv
COPY --from=program /app /app
COPY recipes /srv/recipes
COPY LICENSE NOTICE docs/licences.md /usr/share/doc/spark-appliance/

# Anything that libraries want to write goes to the state volume: the root file system is read-only, and the user may
# be one that /etc/passwd does not know.
ENV PATH=/app/bin:/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    SPARK_APPLIANCE_IMAGE=1 \
    HOME=/srv/state/cache/home USER=appliance LOGNAME=appliance \
    XDG_CACHE_HOME=/srv/state/cache HF_HOME=/srv/state/cache/huggingface \
    APPLIANCE_INBOX=/srv/inbox APPLIANCE_OUTBOX=/srv/outbox APPLIANCE_STATE=/srv/state \
    APPLIANCE_MODELS=/srv/models APPLIANCE_RECIPES=/srv/recipes APPLIANCE_LISTEN=0.0.0.0:8080

ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="Spark Appliance" \
    org.opencontainers.image.description="A fine-tuning appliance: a file goes in, a QLoRA adapter comes out." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

WORKDIR /srv
USER 1000:1000
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=10s --start-period=2m --retries=3 CMD ["python", "-m", "appliance.commands.health"]
ENTRYPOINT ["appliance"]
CMD ["serve"]
