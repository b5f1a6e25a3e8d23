#!/usr/bin/env bash
# Builds the image: kubeflow/build.sh REGISTRY/PATH [more arguments of `docker build`, such as --push].
# Its tag is the version of tfx_mobile, its Beam that of the lock; both are read where they are defined, never given.
# DOCKER=podman takes another builder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=${1:-}
if [[ ! "${name##*/}" =~ ^[a-z0-9][a-z0-9._-]*$ ]]; then
  echo "build.sh: '$name' is no name of an image. Give registry and path without a tag, such as" \
    "europe-docker.pkg.dev/PROJECT/REPOSITORY/tfx-mobile; the tag is the package's version." >&2
  exit 2
fi
shift

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' components/tfx_mobile/__init__.py)
beam_version=$(sed -n 's/^apache-beam==\([^ ]*\) .*/\1/p' requirements/tfx-1.16.txt)
if [[ -z "$version" || -z "$beam_version" ]]; then
  echo "build.sh: found no version of tfx_mobile ('$version') or of Beam in the lock ('$beam_version')." >&2
  exit 1
fi
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [[ -n "$(git status --porcelain 2>/dev/null || true)" ]]; then
  revision+=-dirty
fi
if grep -q '^ARG [A-Z]*_DIGEST=""$' kubeflow/Dockerfile; then
  echo "build.sh: a base image is not pinned by its digest; see the first lines of kubeflow/Dockerfile." >&2
fi

# The lock is compiled for x86-64.
exec "${DOCKER:-docker}" build --platform linux/amd64 --file kubeflow/Dockerfile --tag "$name:$version" \
  --build-arg "VERSION=$version" --build-arg "BEAM_VERSION=$beam_version" --build-arg "REVISION=$revision" "$@" .
