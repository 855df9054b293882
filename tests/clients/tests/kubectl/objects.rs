//! The files the conversations are about.

pub(crate) const MORE_POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels: {app: a}\nspec:\n  automountServiceAccountToken: false\n  containers:\n  - name: c\n    image: busybox:1.30\n    ports:\n    - containerPort: 80\n";
/// First asks for another node, which is refused; shown why, asks for another image.
pub(crate) const SECOND_THOUGHT: &str = "#!/bin/sh
if grep -q 'was not valid' \"$1\"; then
  grep '^#' \"$1\"
  sed -i 's/^  nodeName: other$//; s/busybox:1.30/busybox:1.31/' \"$1\"
else
  sed -i 's/^spec:$/spec:\\n  nodeName: other/' \"$1\"
fi
";
/// Gives the status a message.
pub(crate) const STATUS_EDITOR: &str = "#!/bin/sh\nsed -i 's/^  phase: Pending$/  phase: Pending\\n  message: hello/' \"$1\"\n";
pub(crate) const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata:\n  name: node1\nstatus:\n  conditions:\n  - {type: Ready, status: 'True', reason: KubeletReady, message: kubelet is posting ready status}\n  nodeInfo: {architecture: amd64, bootID: b, containerRuntimeVersion: r, kernelVersion: k, kubeProxyVersion: v1.33.0, kubeletVersion: v1.33.0, machineID: m, operatingSystem: linux, osImage: o, systemUUID: s}\n";
pub(crate) const BOUND_POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  automountServiceAccountToken: false\n  nodeName: node1\n  containers:\n  - name: c\n    image: busybox:1.30\n";
pub(crate) const EVENT: &str = "apiVersion: v1\nkind: Event\nmetadata:\n  name: e\ninvolvedObject: {apiVersion: v1, kind: Pod, name: p, namespace: default, uid: u}\nreason: Seen\nmessage: it was seen\ntype: Normal\nsource: {component: eye}\n---\napiVersion: v1\nkind: Event\nmetadata:\n  name: w\ninvolvedObject: {apiVersion: v1, kind: Pod, name: q, namespace: default, uid: v}\nreason: Lost\nmessage: it was lost\ntype: Warning\nsource: {component: eye}\n";
/// Of a user `bob` in the group `people`; the key is nobody's.
pub(crate) const CSR: &str = "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata:\n  name: bob\nspec:\n  signerName: kubernetes.io/kube-apiserver-client\n  usages: [client auth]\n  request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIYU1JR0JBZ0VBTUI4eEREQUtCZ05WQkFNTUEySnZZakVQTUEwR0ExVUVDZ3dHY0dWdmNHeGxNRmt3RXdZSApLb1pJemowQ0FRWUlLb1pJemowREFRY0RRZ0FFZDh0d2JGV3ZCL1Y1dXg3L1h1a1ovSmQ4eU8xb0VPTTBWN2xsClZSSjlIV05GSy9hdTM4UEpTUWpxNXhnWGltRWV5Q3B5cllxLzZwZ0xBNlBsdEd6QTBLQUFNQW9HQ0NxR1NNNDkKQkFNQ0EwZ0FNRVVDSUFSMW9iaHYzNUw0dlNuajNBdlN3WldHS3ZvYzlCTGVtUXhYQ2p6NlVOSkxBaUVBdFZOUwpDZVlnU1U0UkhTemp3Rm1xdDVRTklPYjlEQ2NHRWg2VzdFNnEvVzg9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=\n";
