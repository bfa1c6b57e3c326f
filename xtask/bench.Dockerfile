# What the contenders of `cargo xtask bench` need: Jekyll, and rsync for the scripts that use it. `cargo xtask bench` builds
# this where a registry answers, and the same from Debian's packages where none does.
FROM ruby:3.3-slim-bookworm
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential rsync \
 && rm -rf /var/lib/apt/lists/*
RUN gem install --no-document jekyll:4.3.4
ENV LANG=C.UTF-8
WORKDIR /workspace
