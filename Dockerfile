# The images of api, workers and operator, from the repository's root:
#     docker build --target api -t media-api .    likewise workers and operator; `make page` first, for the api's page
# Images that need the same share it as a layer: core's wheels are in all three, the decoders' in api and workers.
# Wheels are installed in stages of their own (*-wheels), so that no image has pip, a compiler or a lock file.
ARG BASE=python:3.11-slim

# Of the base nothing that installs, builds or tests Python or Debian packages is left, nothing for disks, logins and
# terminals, and no character sets (gconv): Python has its own. dpkg removes its packages, so its list, which scanners
# read, stays true. Perl and debconf go last: the others' scripts call them.
# The standard library is compiled, else each process would compile what it imports of it.
# The last lines fail if a program or a module of Python lacks a library.
FROM ${BASE} AS slimmed
RUN purge() { dpkg-query --show --showformat='${Package}\n' | grep -xE "$1" | xargs dpkg --purge --force-all > /tmp/log 2>&1; } \
 && export DEBIAN_FRONTEND=noninteractive \
 && purge "apt|libapt-pkg.*|debian-archive-keyring|gpgv|sqv|libgnutls.*|libp11-kit0|libhogweed.*|libnettle.*|libidn2.*\
|libunistring.*|libtasn1.*|libgcrypt.*|libgpg-error.*|liblz4-1|libxxhash0|libseccomp2|libsystemd0|libudev1\
|e2fsprogs|libext2fs.*|libss2|logsave|mount|util-linux.*|bsdutils|libmount1|libsmartcols1|libblkid1|sysvinit-utils\
|passwd|login.*|adduser|libpam.*|libsemanage.*|libsepol.*|libaudit.*|libcap-ng0|ncurses-bin|hostname|openssl\
|tar|gzip|diffutils|mawk|python3.*-venv|python3-.*-whl|python3-lib2to3|python3-distutils" \
 && purge "perl-base|debconf|init-system-helpers" || { tail /tmp/log; exit 1; } \
 && cd "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && rm -rf distutils ensurepip idlelib lib2to3 pydoc_data test tkinter turtledemo config-* /tmp/log \
    "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"/* /usr/share/python-wheels \
    /usr/lib/*/gconv /usr/lib/*/perl* /usr/share/perl* /var/cache/debconf /var/cache/ldconfig \
    /usr/share/zoneinfo/right /usr/share/zoneinfo/posix \
 && python3 -m compileall -q . \
 && { ldd /bin/* /usr/bin/* "$(command -v python3)" lib-dynload/*.so > /tmp/log 2>&1 || true; } \
 && ! grep "not found" /tmp/log \
 && rm /tmp/log

# A layer of its own: what is removed on top of a base takes its room all the same.
FROM scratch AS base
COPY --from=slimmed / /
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8

FROM ${BASE} AS wheels
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends binutils > /dev/null \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/pip
# `install-wheels LOCK` brings /opt/venv to that lock: wheels only, each with its hash. What is taken out after it, and
# why, stands beside each. `leave-layer NAME` makes a layer of what is new.
# Extension modules lose the symbols that only a debugger reads: 67 MB of CTranslate2, 25 MB of PyAV, 12 MB of uvloop.
# The libraries beside them (*.libs) stay as auditwheel has written them: there is little to gain.
# Tests, headers and what only a compiler or a type checker reads go as well: 16 MB of the workers.
RUN printf '%s\n' '#!/bin/sh -e' \
    'cd / && mkdir -p opt/venv && find opt/venv ! -type d | sort > /tmp/before' \
    'test -e opt/venv/bin/python3 || python3 -m venv --without-pip opt/venv' \
    'exec /opt/pip/bin/pip --python /opt/venv/bin/python3 install --quiet --no-cache-dir --no-compile \' \
    '    --require-hashes --only-binary :all: --requirement "$1"' \
    > /usr/local/bin/install-wheels \
 && printf '%s\n' '#!/bin/sh -e' \
    'new() { find opt/venv ! -type d | sort | comm -13 /tmp/before -; }' \
    'cd / && new | grep -E "/tests/|\.(pyi|pyx|pxd|c|h|a|la)$" | xargs --no-run-if-empty --delimiter="\n" rm' \
    'new | grep -E "\.(cpython-[^/]*|abi3)\.so$" | xargs --no-run-if-empty strip --strip-unneeded' \
    'opt/venv/bin/python3 -m compileall -q opt/venv/lib' \
    'mkdir -p "layers/$1" && new | tar --create --files-from - | tar --extract --directory "layers/$1"' \
    > /usr/local/bin/leave-layer \
 && chmod +x /usr/local/bin/install-wheels /usr/local/bin/leave-layer

FROM wheels AS core-wheels
COPY core/requirements.lock /opt/core.lock
# botocore describes 400 services of AWS (22 MB). The platform calls three.
# /opt/app not by PYTHONPATH: the children that decode untrusted bytes run isolated (`python -I`) and would not see it.
RUN install-wheels /opt/core.lock \
 && cd /opt/venv/lib/python3*/site-packages \
 && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name iam ! -name sts -exec rm -r {} + \
 && echo /opt/app > app.pth \
 && leave-layer core

FROM core-wheels AS decoding-wheels
COPY core/decoding.lock /opt/decoding.lock
RUN install-wheels /opt/decoding.lock && leave-layer decoding

FROM base AS core
COPY --from=core-wheels /layers/core /
# The root file system may be read-only; what is written for a while goes to /tmp, which then has to be a volume.
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /opt/app
USER 65532:65532

FROM core AS decoding
COPY --from=decoding-wheels /layers/decoding /

FROM decoding-wheels AS api-wheels
COPY api/requirements.lock /opt/api.lock
RUN install-wheels /opt/api.lock && leave-layer api

FROM api-wheels AS api-code
COPY core/media_core /opt/app/media_core
COPY api/media_api /opt/app/media_api
RUN python3 -m compileall -q /opt/app

# The page of files, if `make page` has built it. The first name is there in any case: without it an image without the
# page could not be built. A stage of its own, so that changed code leaves the page's layer as it is.
FROM core AS page
COPY page/node-requirements.txt page/dis[t] /opt/page/

FROM decoding AS api
COPY --from=api-wheels /layers/api /
COPY --from=page /opt/page /opt/page
COPY --from=api-code /opt/app /opt/app
ENV MEDIA_PAGE_FOLDER=/opt/page
EXPOSE 8080
ENTRYPOINT ["python3", "-m", "media_api"]

FROM decoding-wheels AS workers-wheels
COPY workers/requirements.lock /opt/workers.lock
# onnxruntime brings itself twice. libonnxruntime.so (35 MB) is for programs in C; Python's module does not load it.
# What converts and trims models (transformers, tools, quantization) is for those who make them.
RUN install-wheels /opt/workers.lock \
 && cd /opt/venv/lib/python3*/site-packages \
 && rm -r onnxruntime/capi/libonnxruntime.so.* onnxruntime/transformers onnxruntime/tools onnxruntime/quantization \
 && leave-layer workers

FROM workers-wheels AS workers-code
COPY core/media_core /opt/app/media_core
COPY workers/media_workers /opt/app/media_workers
RUN python3 -m compileall -q /opt/app

FROM decoding AS workers
COPY --from=workers-wheels /layers/workers /
COPY --from=workers-code /opt/app /opt/app
ENTRYPOINT ["python3", "-m", "media_workers"]

FROM core-wheels AS operator-wheels
COPY operator/requirements.lock /opt/operator.lock
# The Kubernetes client has a class for every kind and every call, twice (72 MB, and 50 MB compiled). It imports them
# when they are asked for. The operator asks for none: it sends plain dicts (media_operator/cluster/kube.py).
RUN install-wheels /opt/operator.lock \
 && cd /opt/venv/lib/python3*/site-packages/kubernetes \
 && find client/api client/models aio/client/api aio/client/models -name '*.py' ! -name __init__.py -delete \
 && leave-layer operator

FROM operator-wheels AS operator-code
COPY core/media_core /opt/app/media_core
COPY operator/media_operator /opt/app/media_operator
RUN python3 -m compileall -q /opt/app

FROM core AS operator
COPY --from=operator-wheels /layers/operator /
COPY --from=operator-code /opt/app /opt/app
EXPOSE 8080
ENTRYPOINT ["python3", "-m", "media_operator"]
