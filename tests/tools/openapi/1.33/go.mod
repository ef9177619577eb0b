module tools/openapi

go 1.25.0

require k8s.io/kubernetes v1.33.13
