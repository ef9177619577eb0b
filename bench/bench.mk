.PHONY: bench
bench: setup clamd ## measure ratios to the bare limit (BENCH="--quick", "--only upload,scan", "--save")
	@$(BIN)/python -m bench $(BENCH)
