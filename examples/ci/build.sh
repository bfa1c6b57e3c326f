#!/bin/sh
# Runs one build in a container's own layer and brings its products back.
#
# Usage: IMAGE=… OUTPUT=… [SOURCE=.] [FASTBUILD=fastbuild] build.sh COMMAND…
#
# The mounted line that it replaces:
#   docker run --rm -v "$PWD:/src" -w /src -e CI "$IMAGE" COMMAND…
set -eu

: "${IMAGE:?set IMAGE to the image to build in}"
: "${OUTPUT:?set OUTPUT to the path that comes back}"

# --progress plain: no bars in a log. -e CI: only what is named crosses. --exclude .git: this build does not read it.
exec "${FASTBUILD:-fastbuild}" \
	--source "${SOURCE:-.}" \
	--image "$IMAGE" \
	--output "$OUTPUT" \
	--env CI \
	--exclude .git \
	--progress plain \
	-- "$@"
