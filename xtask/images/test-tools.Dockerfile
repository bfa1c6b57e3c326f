# What the tests' real builds need: a Rust compiler, git, npm with a bundler, and the sources of a C project in /usr/src/lua.
# xtask makes it; by hand: docker build -t fastbuild/test-tools - < xtask/images/test-tools.Dockerfile
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends cargo esbuild gcc git libc6-dev make npm rustc \
 && sed -i 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources \
 && apt-get update \
 && mkdir /usr/src/lua \
 && cd /tmp \
 && apt-get source --download-only lua5.4 \
 && tar -C /usr/src/lua --strip-components=1 -xf lua5.4_*.orig.tar.gz \
 && rm -rf /tmp/lua* /var/lib/apt/lists/*
ENV LANG=C.UTF-8
WORKDIR /workspace
