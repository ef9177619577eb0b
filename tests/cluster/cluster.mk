# A Kubernetes of our own; tests/cluster/ and docs/development.md say how. Python's standard library is all it needs.
.PHONY: cluster cluster-down images load tools demo
cluster: ## a kind cluster named media; prints how to reach it
	@$(PYTHON) -m tests.cluster up

cluster-down: ## remove the cluster and all that came with it
	@$(PYTHON) -m tests.cluster down

images: ## build the images of the project and of the services beside it
	@$(PYTHON) -m tests.cluster images

load: ## build them and load them into the cluster
	@$(PYTHON) -m tests.cluster load

demo: setup ## a cluster, the platform, a tenant, a photo, a virus and a recording, step by step
	@$(BIN)/python -m tests.cluster.demo

tools: ## build the programs that clusters and tests need, once
	@$(PYTHON) tests/tools/build.py > /dev/null
