# `make demo` and `make test` need Python 3.11 or newer and nothing else: they make their own .venv and reuse it.

.PHONY: demo test check lock clean
.NOTPARALLEL:

demo:
	@tools/environment demo
	.venv/bin/balancer demo

test:
	@tools/environment test
	.venv/bin/pytest

# Lint, types and contracts.
check:
	@tools/environment dev
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/pyright
	.venv/bin/mypy
	.venv/bin/lint-imports

# Newest versions and their hashes, resolved under the oldest Python that is supported.
lock:
	tools/lock $${PYTHON:-python3.11}

clean:
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist
