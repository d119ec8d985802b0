# What model-written code finds in the sandbox `docker`: Python, numpy, sympy, and nobody's rights.
#   palestra doctor --build-image
#   docker build -t palestra-sandbox:local -f docker/sandbox.Dockerfile docker
# The runner is not in here: it is sent over stdin, so that an image serves every version of it.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# Bytecode is written now because nobody can write it later (read-only root), and a start without it takes seconds.
RUN python3 -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        "numpy>=2,<3" "sympy>=1.13,<2" \
 && python3 -m pip uninstall --yes --quiet --root-user-action=ignore pip \
 && python3 -c "import pathlib, shutil, sysconfig; \
folders = [pathlib.Path(sysconfig.get_path(name)) for name in ('stdlib', 'platlib')]; \
unused = [path for folder in folders for name in ('ensurepip', 'idlelib', 'lib2to3', 'test', 'tkinter', 'turtledemo', \
          'setuptools', 'wheel', 'pkg_resources', '_distutils_hack', '*-distutils-precedence.pth') \
          for path in folder.glob(name)]; \
[shutil.rmtree(path) if path.is_dir() else path.unlink() for path in unused]" \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "$(python3 -c 'import os; print(os.path.dirname(os.__file__))')" \
 && python3 -c "import numpy, sympy"

USER 65534:65534
WORKDIR /tmp
CMD ["python3"]
