// etcd and kube-apiserver as they are released, for tests: an explicit requirement outranks the v0.0.0 that
// kubernetes' own go.mod has for its parts.
module fleet-epp/tools/kube-plane

go 1.26.0

require (
	go.etcd.io/etcd/server/v3 v3.7.0
	k8s.io/apiextensions-apiserver v0.37.1
	k8s.io/cluster-bootstrap v0.37.1
	k8s.io/csi-translation-lib v0.37.1
	k8s.io/endpointslice v0.37.1
	k8s.io/externaljwt v0.37.1
	k8s.io/kube-aggregator v0.37.1
	k8s.io/kube-controller-manager v0.37.1
	k8s.io/kube-proxy v0.37.1
	k8s.io/kube-scheduler v0.37.1
	k8s.io/kubectl v0.37.1
	k8s.io/kubelet v0.37.1
	k8s.io/kubernetes v1.37.1
	k8s.io/mount-utils v0.37.1
	k8s.io/pod-security-admission v0.37.1
)
