{{/* What the controller reads and writes: by tools/controller-rbac, from epp/compiler/kinds.py. */}}
{{- define "fleet-epp.controllerRules" }}
{{- if has .Values.controller.target (list "envoy-ai-gateway-0.7" "envoy-ai-gateway-1.1") }}
# What serves which model, for whom; whether it is there yet; which model requests are for; names of several models.
- apiGroups: [inference.llmkube.dev]
  resources: [inferenceservices, models, modelrouters, modelpools]
  verbs: [list, watch]
# The gateway that routes are for, and its listeners; what routes may name in other namespaces.
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways, referencegrants]
  verbs: [list, watch]
# The order of routes, and the access log; addresses of servers without a picker; how large a body may be, and which
# headers are not the client's to send; who may ask; time-outs, retries and limits.
- apiGroups: [gateway.envoyproxy.io]
  resources: [envoyproxies, backends, clienttrafficpolicies, securitypolicies, backendtrafficpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Processors that others put on routes.
- apiGroups: [gateway.envoyproxy.io]
  resources: [envoyextensionpolicies]
  verbs: [list, watch]
# Services of the pickers, with a port for each pool, and of machines outside.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# Machines outside the cluster, of LLMKube's agent and of a fleet file.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch, create, patch, delete]
# A pool for each set of servers, and the port of its picker.
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch, create, patch, delete]
# How urgent requests are.
- apiGroups: [llm-d.ai]
  resources: [inferenceobjectives]
  verbs: [get, list, watch, create, patch, delete]
# In which words providers are asked; the names of the Secrets with providers' keys; which model is where.
- apiGroups: [aigateway.envoyproxy.io]
  resources: [aiservicebackends, backendsecuritypolicies, aigatewayroutes]
  verbs: [get, list, watch, create, patch, delete]
# How providers' certificates are verified.
- apiGroups: [gateway.networking.k8s.io]
  resources: [backendtlspolicies]
  verbs: [get, list, watch, create, patch, delete]
# What became of it, as status.gateway and the condition GatewayReady.
- apiGroups: [inference.llmkube.dev]
  resources: [inferenceservices/status, modelrouters/status]
  verbs: [patch]
# What is wrong with somebody's object.
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}
{{- if has .Values.controller.target (list "agentgateway") }}
# What serves which model, for whom; whether it is there yet; which model requests are for; names of several models.
- apiGroups: [inference.llmkube.dev]
  resources: [inferenceservices, models, modelrouters, modelpools]
  verbs: [list, watch]
# Machines outside the cluster, of LLMKube's agent and of a fleet file.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# The gateway that routes are for, and its listeners.
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways]
  verbs: [list, watch]
# What routes may name in other namespaces; which model is where.
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants, httproutes]
  verbs: [get, list, watch, create, patch, delete]
# Services of the pickers, with a port for each pool, and of machines outside.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# A pool for each set of servers, and the port of its picker.
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch, create, patch, delete]
# How urgent requests are.
- apiGroups: [llm-d.ai]
  resources: [inferenceobjectives]
  verbs: [get, list, watch, create, patch, delete]
# Providers, and the names of the Secrets with their keys; the model as a header, limits, and who may ask.
- apiGroups: [agentgateway.dev]
  resources: [agentgatewaybackends, agentgatewaypolicies]
  verbs: [get, list, watch, create, patch, delete]
# What became of it, as status.gateway and the condition GatewayReady.
- apiGroups: [inference.llmkube.dev]
  resources: [inferenceservices/status, modelrouters/status]
  verbs: [patch]
# What is wrong with somebody's object.
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}
{{- if has .Values.controller.target (list "gateway-api") }}
# What serves which model, for whom; whether it is there yet; which model requests are for; names of several models.
- apiGroups: [inference.llmkube.dev]
  resources: [inferenceservices, models, modelrouters, modelpools]
  verbs: [list, watch]
# The gateway that routes are for, and its listeners.
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways]
  verbs: [list, watch]
# What routes may name in other namespaces; which model is where.
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants, httproutes]
  verbs: [get, list, watch, create, patch, delete]
# Services of the pickers, with a port for each pool, and of machines outside.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# Machines outside the cluster, of LLMKube's agent and of a fleet file.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch, create, patch, delete]
# A pool for each set of servers, and the port of its picker.
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch, create, patch, delete]
# How urgent requests are; what a model is called by its servers.
- apiGroups: [llm-d.ai]
  resources: [inferenceobjectives, inferencemodelrewrites]
  verbs: [get, list, watch, create, patch, delete]
# What became of it, as status.gateway and the condition GatewayReady.
- apiGroups: [inference.llmkube.dev]
  resources: [inferenceservices/status, modelrouters/status]
  verbs: [patch]
# What is wrong with somebody's object.
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}
{{- end }}
{{- define "fleet-epp.controllerWideRules" }}
{{- if has .Values.controller.target (list "envoy-ai-gateway-0.7" "envoy-ai-gateway-1.1" "agentgateway" "gateway-api") }}
# Which EnvoyProxy holds for a Gateway.
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses]
  verbs: [list, watch]
# Labels of namespaces, by which listeners take routes.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
{{- end }}
{{- end }}
