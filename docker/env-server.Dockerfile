# One environment, served in OpenEnv's protocol on port 8000 (docs/interop.md). Without torch: an environment needs none.
#   git archive HEAD | docker build -t palestra-env:local -f docker/env-server.Dockerfile -
#   docker run --rm -p 127.0.0.1:8000:8000 palestra-env:local palestra/Dice-v0 --variant test
# The archive is the context: it is what is committed, and neither .venv nor runs are sent.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

COPY . /src
# gradio, which OpenEnv asks for, wants an older pillow than the tests of Palestra itself run with.
RUN python3 -c "lines = open('/src/constraints.txt').readlines(); \
open('/src/constraints.txt', 'w').writelines(line for line in lines if not line.startswith('pillow=='))" \
 && python3 -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        -c /src/constraints.txt "openenv>=0.10,<0.11" gymnasium numpy pydantic pyyaml rich sympy typer \
 && python3 -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore --no-deps /src \
 && python3 -c "import shutil, palestra.envs.adapters.openenv; shutil.rmtree('/src')"

USER 65534:65534
WORKDIR /tmp
ENV PALESTRA_HOME=/tmp/palestra PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --start-period=30s --interval=30s --timeout=5s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["python3", "-m", "palestra", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["palestra/Dice-v0"]
