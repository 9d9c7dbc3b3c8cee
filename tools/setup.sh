#!/bin/sh
# Makes .venv with everything HES needs, from the hash-locked files. Does nothing when nothing changed.
#
# Two stamps in .venv hold, word for word, what it was made from: `made-from` the checkout's path (scripts in .venv
# name it) and the locks; if they differ, .venv is made anew. `hes-from` what HES itself was installed from; if only
# that differs, HES alone is installed again, offline.
set -eu
unset CDPATH
cd -- "$(dirname -- "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

made_from() { pwd -P; cat requirements/runtime.txt requirements/dev.txt; }
hes_from() { cat pyproject.toml hes/__init__.py; }

version_of() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null; }

# PYTHON counts only where it is given: `make test` after `make setup PYTHON=python3.12` goes on with 3.12.
venv_fits() {
    made_from | cmp -s - .venv/made-from 2>/dev/null && has=$(version_of .venv/bin/python) || return 1
    [ -z "${PYTHON:-}" ] || [ "$has" = "$(version_of "$PYTHON")" ]
}
hes_fits() { [ -x .venv/bin/hes ] && hes_from | cmp -s - .venv/hes-from 2>/dev/null; }

if venv_fits && hes_fits; then
    say "up to date"
    exit 0
fi

python=${PYTHON:-python3}
command -v "$python" >/dev/null || die "there is no $python here. HES needs Python 3.11 or newer" \
    "(Debian, Ubuntu: apt-get install python3 python3-venv), or name one: make setup PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || die "HES needs Python 3.11 or newer," \
    "but $python answers \"$("$python" --version 2>&1 | head -n 1)\". Name another: make setup PYTHON=python3.12"
# The interpreter behind shims and virtual environments: python3 may be the one in .venv, which goes away below.
python=$("$python" -c 'import sys; print(sys._base_executable)')

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
pip() {
    if .venv/bin/python -c 'import pip' 2>/dev/null; then
        .venv/bin/python -m pip "$@"
    else
        "$python" -m pip --python .venv/bin/python "$@"
    fi
}

if ! venv_fits; then
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    if ! why=$("$python" -m venv .venv 2>&1); then
        # Debian without python3-venv: pip cannot be put into .venv, but one outside can fill it.
        rm -rf .venv
        "$python" -m venv --without-pip .venv >/dev/null 2>&1 && "$python" -m pip --version >/dev/null 2>&1 || {
            rm -rf .venv
            printf '%s\n' "$why" >&2
            die "$python can neither make a virtual environment nor run pip. Debian, Ubuntu: apt-get install" \
                "python3-venv (or python3-pip), then try again."
        }
    fi
    say "installing $(cat requirements/runtime.txt requirements/dev.txt | grep -c '==') packages (about half a minute)"
    pip install -qq --require-hashes -r requirements/runtime.txt -r requirements/dev.txt
    made_from >.venv/made-from
fi

say "installing HES"
rm -f .venv/hes-from
pip install -qq --no-index --no-deps --no-build-isolation --editable .
hes_from >.venv/hes-from
say "done: .venv/bin/hes"
