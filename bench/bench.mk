.PHONY: bench bench-load bench-lock
bench: setup clamd bench-load ## measure ratios to bare limits, Synapse and tusd (BENCH="--quick", "--only small,scan", "--save")
	@$(BIN)/python -m bench $(BENCH)

bench-load: ## install the load generator if this machine allows it, or say how
	@sh tests/tools/install.sh "wrk strace" "Without them the bench says what it leaves out" \
	  "Fedora: sudo dnf install wrk strace; macOS: brew install wrk" wrk strace

lock: bench-lock
bench-lock: ## resolve what the bench's Synapse needs anew
	@uv=$$(command -v uv || echo $(BIN)/uv); \
	$$uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 --universal --upgrade \
	  --custom-compile-command 'make bench-lock' bench/contenders/synapse.in -o bench/contenders/synapse.lock
