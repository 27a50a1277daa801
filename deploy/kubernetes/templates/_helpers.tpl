{{/* The name of all objects. KubeRay appends "-head-svc". */}}
{{- define "vision-infer.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "vision-infer.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The labels of the gateway's pods. They never change. */}}
{{- define "vision-infer.gateway" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{/* Whether a group may grow: "true" or nothing. */}}
{{- define "vision-infer.autoscaling" -}}
{{- $growing := false }}
{{- range .Values.workers }}{{ if gt (int .maxReplicas) (int .replicas) }}{{ $growing = true }}{{ end }}{{ end }}
{{- if $growing }}true{{ end }}
{{- end -}}

{{/* What all pods have in common. */}}
{{- define "vision-infer.pod" -}}
# The service refuses unknown variables, such as those of a Service with the name vision-infer-head-svc.
enableServiceLinks: false
securityContext: {runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001, fsGroup: 10001, seccompProfile: {type: RuntimeDefault}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {name: {{ . | quote }}}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "vision-infer.securityContext" -}}
{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
{{- end -}}

{{/* The environment of Ray's pods. */}}
{{- define "vision-infer.rayEnvironment" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
# The cameras have left before SIGTERM, so Ray need not wait for idle workers.
- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: "0"}
# Otherwise Ray lowers the priority of the cameras.
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_ROTATION_MAX_BYTES, value: "10000000"}
- {name: RAY_ROTATION_BACKUP_COUNT, value: "1"}
{{- end -}}
