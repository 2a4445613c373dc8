{{/* As upstream calls it: of the Deployment, the Service and the ServiceAccount. */}}
{{- define "fleet-epp.name" -}}
{{ .Release.Name | lower | trunc 40 | trimSuffix "-" }}-epp
{{- end }}

{{/* Of what is not in a namespace. */}}
{{- define "fleet-epp.clusterName" -}}
{{ .Release.Namespace | trunc 40 | trimSuffix "-" }}-{{ include "fleet-epp.name" . }}
{{- end }}

{{/* Of the controller's Deployment and ServiceAccount. */}}
{{- define "fleet-epp.controllerName" -}}
{{ .Release.Name | lower | trunc 40 | trimSuffix "-" }}-controller
{{- end }}

{{- define "fleet-epp.labels" -}}
app.kubernetes.io/name: {{ include "fleet-epp.name" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Upstream's, so that a release of its chart can be upgraded to this one: a Deployment cannot change them. */}}
{{- define "fleet-epp.selector" -}}
inferencepool: {{ include "fleet-epp.name" . }}
{{- end }}

{{- define "fleet-epp.controllerLabels" -}}
{{ include "fleet-epp.controllerSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "fleet-epp.controllerSelector" -}}
app.kubernetes.io/name: {{ include "fleet-epp.controllerName" . }}
{{- end }}

{{/* A number as people write it: Helm reads 1000000 as 1e+06. */}}
{{- define "fleet-epp.word" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "fleet-epp.image" -}}
{{- $image := .Values.inferenceExtension.image }}
{{- $host := $image.registry | default $image.hub }}
{{- with $host }}{{ . | trimSuffix "/" }}/{{ end }}{{ $image.name | default $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* {flag: value, …}; in older charts a list of {name, value}. */}}
{{- define "fleet-epp.flags" -}}
{{- $given := .Values.inferenceExtension.flags | default dict }}
{{- $flags := dict }}
{{- if kindIs "slice" $given }}
{{- range $given }}
{{- $_ := set $flags .name (append (index $flags .name | default list) .value) }}
{{- end }}
{{- range $name, $several := $flags }}{{ if eq (len $several) 1 }}{{ $_ := set $flags $name (first $several) }}{{ end }}{{ end }}
{{- else }}
{{- $flags = $given }}
{{- end }}
{{- $flags | toJson }}
{{- end }}

{{/* "true": spans are exported; older charts: trace. */}}
{{- define "fleet-epp.traces" -}}
{{- $extension := .Values.inferenceExtension }}
{{- or $extension.tracing.enabled (dig "trace" "enabled" false $extension) }}
{{- end }}

{{/* "true": replicas stand by for a leader. */}}
{{- define "fleet-epp.elects" -}}
{{- $flags := include "fleet-epp.flags" . | fromJson }}
{{- if hasKey $flags "ha-enable-leader-election" }}
{{- eq (toString (index $flags "ha-enable-leader-election")) "true" }}
{{- else }}
{{- gt (int .Values.inferenceExtension.replicas) 1 }}
{{- end }}
{{- end }}

{{/* {"grpc": …, "health": …, "metrics": …}: on which the container listens. */}}
{{- define "fleet-epp.ports" -}}
{{- $flags := include "fleet-epp.flags" . | fromJson }}
{{- dict
  "grpc" (dig "grpc-port" 9002 $flags | int)
  "health" (dig "grpc-health-port" 9003 $flags | int)
  "metrics" (dig "metrics-port" 9090 $flags | int)
| toJson }}
{{- end }}

{{/* "true": the picker serves the pools that the controller makes. */}}
{{- define "fleet-epp.servesCompiled" -}}
{{- or .Values.compiledPools.enabled .Values.controller.enabled }}
{{- end }}

{{/* "true": there is a pool of the release's name. */}}
{{- define "fleet-epp.hasOwnPool" -}}
{{- or (ne (include "fleet-epp.servesCompiled" .) "true") (not (empty (.Values.inferencePool.modelServers).matchLabels)) }}
{{- end }}

{{/* "true": something is asked for on extProcPort. */}}
{{- define "fleet-epp.usesOwnPort" -}}
{{- or (eq (include "fleet-epp.hasOwnPool" .) "true") .Values.poolService.enabled }}
{{- end }}

{{/* Ports of further pools. */}}
{{- define "fleet-epp.poolPorts" -}}
{{- $ports := list }}
{{- range .Values.pools }}{{ $ports = append $ports (int .port) }}{{ end }}
{{- if .Values.poolService.enabled }}
{{- range .Values.poolService.ports }}{{ $ports = append $ports (int .) }}{{ end }}
{{- end }}
{{- $ports | uniq | toJson }}
{{- end }}

{{/* The container's arguments, one per flag: what the values say, over what the chart would. */}}
{{- define "fleet-epp.arguments" -}}
{{- $extension := .Values.inferenceExtension }}
{{- $pool := .Values.inferencePool }}
{{- $flags := dict
  "zap-encoder" "json"
  "config-file" (printf "/config/%s" $extension.pluginsConfigFile)
  "tracing" (include "fleet-epp.traces" .) }}
{{- $services := list }}
{{- if .Values.poolService.enabled }}{{ $services = append $services (include "fleet-epp.name" .) }}{{ end }}
{{- if eq (include "fleet-epp.servesCompiled" .) "true" }}{{ $services = append $services (printf "%s-pools" (include "fleet-epp.name" .)) }}{{ end }}
{{- with $services }}{{ $_ := set $flags "pool-service" . }}{{ end }}
{{- if and (not $pool.enabled) (eq (include "fleet-epp.hasOwnPool" .) "true") }}
{{- $labels := list }}
{{- range $key, $value := ($pool.modelServers).matchLabels }}{{ $labels = append $labels (printf "%s=%s" $key $value) }}{{ end }}
{{- $_ := set $flags "endpoint-selector" (join "," $labels) }}
{{- $_ := set $flags "endpoint-target-ports" (include "fleet-epp.targetPorts" . | fromJsonArray | join ",") }}
{{- else if and (eq (include "fleet-epp.hasOwnPool" .) "true") (not .Values.poolService.enabled) }}
{{- $_ := set $flags "pool-name" .Release.Name }}
{{- end }}
{{- $pools := list }}
{{- range .Values.pools }}
{{- $pools = append $pools (printf "%s%s=%v" (.namespace | empty | ternary "" (printf "%s/" .namespace)) .name (int .port)) }}
{{- end }}
{{- with $pools }}{{ $_ := set $flags "pool" . }}{{ end }}
{{- if eq (include "fleet-epp.isOld" .) "true" }}{{ $_ := set $flags "pool-group" "inference.networking.x-k8s.io" }}{{ end }}
{{- if eq (include "fleet-epp.elects" .) "true" }}{{ $_ := set $flags "ha-enable-leader-election" true }}{{ end }}
{{- if not $extension.monitoring.prometheus.auth.enabled }}{{ $_ := set $flags "metrics-endpoint-auth" false }}{{ end }}
{{- if $extension.certificate.secretName }}
{{- $_ := set $flags "cert-path" "/certificate" }}
{{- $_ := set $flags "enable-cert-reload" true }}
{{- end }}
{{- range $flag, $value := include "fleet-epp.flags" . | fromJson }}{{ $_ := set $flags $flag $value }}{{ end }}
{{- range $flag, $value := $flags }}
{{- range (kindIs "slice" $value | ternary $value (list $value)) }}
- {{ printf "--%s=%s" $flag (include "fleet-epp.word" .) | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The same of the controller. */}}
{{- define "fleet-epp.controllerArguments" -}}
{{- $controller := .Values.controller }}
{{- $flags := dict
  "target" $controller.target
  "picker" (include "fleet-epp.name" .)
  "lease" (printf "$(NAMESPACE)/%s" (include "fleet-epp.controllerName" .))
  "metrics-port" $controller.metricsPort }}
{{- with $controller.gateway }}{{ $_ := set $flags "gateway" . }}{{ end }}
{{- with $controller.picker }}{{ $_ := set $flags "picker" . }}{{ end }}
{{- with $controller.modelHeader }}{{ $_ := set $flags "model-header" . }}{{ end }}
{{- with $controller.inventory }}{{ $_ := set $flags "inventory" . }}{{ end }}
{{- with $controller.namespaces }}{{ $_ := set $flags "namespace" . }}{{ end }}
{{- if $controller.fleet }}{{ $_ := set $flags "fleet" "/fleet/fleet.yaml" }}{{ end }}
{{- range $flag, $value := $flags }}
{{- range (kindIs "slice" $value | ternary $value (list $value)) }}
- {{ printf "--%s=%s" $flag (include "fleet-epp.word" .) | quote }}
{{- end }}
{{- end }}
{{- if $controller.claim }}
- "--claim"
{{- end }}
{{- if $controller.verbose }}
- "--verbose"
{{- end }}
{{- end }}

{{/* What a schema cannot say of the controller. */}}
{{- define "fleet-epp.checkController" -}}
{{- $controller := .Values.controller }}
{{- if not $controller.target }}
{{- fail "controller.target: is missing: which gateway, one of envoy-ai-gateway-0.7, envoy-ai-gateway-1.1, agentgateway, gateway-api" }}
{{- end }}
{{- if and $controller.fleet (not (regexMatch "(?m)^kind:[ \\t]*Fleet" $controller.fleet)) }}
{{- fail "controller.fleet: is no fleet file: give its text, as --set-file controller.fleet=fleet.yaml" }}
{{- end }}
{{- end }}

{{/* "true": a pool of before v1. */}}
{{- define "fleet-epp.isOld" -}}
{{- hasPrefix "inference.networking.x-k8s.io/" .Values.inferencePool.apiVersion }}
{{- end }}

{{/* [8000, …] */}}
{{- define "fleet-epp.targetPorts" -}}
{{- $pool := .Values.inferencePool }}
{{- $ports := list }}
{{- range $pool.targetPorts }}{{ $ports = append $ports (int .number) }}{{ end }}
{{- with $pool.targetPortNumber }}{{ $ports = list (int .) }}{{ end }}
{{- $ports | toJson }}
{{- end }}

{{/* "gmp", Google's Prometheus, or "prometheusoperator". */}}
{{- define "fleet-epp.monitor" -}}
{{- $monitoring := .Values.inferenceExtension.monitoring }}
{{- $said := dig "provider" "name" "" $monitoring }}
{{- $said | default (or (eq .Values.provider.name "gke") (dig "gke" "enabled" false $monitoring) | ternary "gmp" "prometheusoperator") }}
{{- end }}

{{/* Of [[whose, port], …] no two may be one, and each must be a port. */}}
{{- define "fleet-epp.eachItsOwn" -}}
{{- $taken := dict }}
{{- range . }}
{{- $whose := first . }}
{{- $port := last . | int }}
{{- if or (lt $port 1) (gt $port 65535) }}
{{- fail (printf "%s: must be a port from 1 to 65535, got %d" $whose $port) }}
{{- end }}
{{- with index $taken (toString $port) }}
{{- fail (printf "%s: port %d is taken by %s: give each its own" $whose $port .) }}
{{- end }}
{{- $_ := set $taken (toString $port) $whose }}
{{- end }}
{{- end }}

{{/* Those of the Service, and those on which the pod listens; pools have theirs on both. */}}
{{- define "fleet-epp.checkPorts" -}}
{{- $extension := .Values.inferenceExtension }}
{{- $pools := list }}
{{- range .Values.pools }}{{ $pools = append $pools (list (printf "pools, %s" .name) .port) }}{{ end }}
{{- if .Values.poolService.enabled }}
{{- range .Values.poolService.ports }}{{ $pools = append $pools (list "poolService.ports" .) }}{{ end }}
{{- end }}
{{- $service := list
  (list "inferenceExtension.extProcPort" $extension.extProcPort)
  (list "inferenceExtension.metricsPort" $extension.metricsPort) }}
{{- include "fleet-epp.eachItsOwn" (concat $service $pools) }}
{{- $ports := include "fleet-epp.ports" . | fromJson }}
{{- $pod := list
  (list "inferenceExtension.flags.grpc-port" $ports.grpc)
  (list "inferenceExtension.flags.grpc-health-port" $ports.health)
  (list "inferenceExtension.flags.metrics-port" $ports.metrics) }}
{{- include "fleet-epp.eachItsOwn" (concat $pod $pools) }}
{{- if eq (include "fleet-epp.servesCompiled" .) "true" }}
{{- range concat $pod $pools }}
{{- if and (ge (last . | int) (include "fleet-epp.firstPort" $ | int)) (le (last . | int) (include "fleet-epp.lastPort" $ | int)) }}
{{- fail (printf "%s: port %d is one of those for the controller's pools (%s to %s): give another" (first .) (last . | int) (include "fleet-epp.firstPort" $) (include "fleet-epp.lastPort" $)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of the pools of the controller. */}}
{{- define "fleet-epp.firstPort" }}9100{{ end }}
{{- define "fleet-epp.lastPort" }}19099{{ end }}

{{/* What a schema cannot say, in words for people. */}}
{{- define "fleet-epp.check" -}}
{{- if .Values.controller.enabled }}{{ include "fleet-epp.checkController" . }}{{ end }}
{{- if .Values.inferenceExtension.enabled }}{{ include "fleet-epp.checkPicker" . }}{{ end }}
{{- if not (or .Values.controller.enabled .Values.inferenceExtension.enabled) }}
{{- fail "inferenceExtension.enabled: false, and controller.enabled is false too: there would be nothing" }}
{{- end }}
{{- end }}

{{- define "fleet-epp.checkPicker" -}}
{{- $extension := .Values.inferenceExtension }}
{{- $pool := .Values.inferencePool }}
{{- if and (eq (include "fleet-epp.hasOwnPool" .) "true") (or $pool.create (not $pool.enabled)) }}
{{- if not ($pool.modelServers).matchLabels }}
{{- fail "inferencePool.modelServers.matchLabels: is missing: the labels of the pods that serve the model, as {app: qwen}" }}
{{- end }}
{{- if not (include "fleet-epp.targetPorts" . | fromJsonArray) }}
{{- fail "inferencePool.targetPorts: is missing: the ports on which the pods serve, as [{number: 8000}]" }}
{{- end }}
{{- end }}
{{- if $extension.latencyPredictor.enabled }}
{{- fail "inferenceExtension.latencyPredictor.enabled: latency prediction by sidecars is not supported: leave it out" }}
{{- end }}
{{- if eq $pool.modelServerProtocol "grpc" }}
{{- fail "inferencePool.modelServerProtocol: grpc: vLLM's gRPC requests are not understood: let the servers speak http" }}
{{- end }}
{{- if and (ne $extension.pluginsConfigFile "default-plugins.yaml") (not (hasKey $extension.pluginsCustomConfig $extension.pluginsConfigFile)) }}
{{- fail (printf "inferenceExtension.pluginsConfigFile: %s is not in pluginsCustomConfig: write it there, or leave both out" $extension.pluginsConfigFile) }}
{{- end }}
{{- if and .Values.pools .Values.poolService.enabled }}
{{- fail "pools: poolService.enabled finds the pools by itself: leave one of them out" }}
{{- end }}
{{- if and .Values.inferenceObjectives (ne (include "fleet-epp.hasOwnPool" .) "true") }}
{{- fail "inferenceObjectives: are of the release's own pool: give inferencePool.modelServers.matchLabels, or write them where the models are" }}
{{- end }}
{{- if and (or .Values.pools .Values.poolService.enabled (eq (include "fleet-epp.servesCompiled" .) "true")) (eq (include "fleet-epp.isOld" .) "true") }}
{{- fail "pools: only with inferencePool.apiVersion inference.networking.k8s.io/v1" }}
{{- end }}
{{- include "fleet-epp.checkPorts" . }}
{{- $drain := dig "drain-timeout" "30s" (include "fleet-epp.flags" . | fromJson) | toString }}
{{- $grace := int $extension.terminationGracePeriodSeconds }}
{{- if and (regexMatch "^[0-9]+s$" $drain) (ge (trimSuffix "s" $drain | int) $grace) }}
{{- fail (printf "inferenceExtension.terminationGracePeriodSeconds: %v must be more than drain-timeout (%s): Kubernetes would kill the picker while it still takes requests" $grace $drain) }}
{{- end }}
{{- end }}
