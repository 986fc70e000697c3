// Kueue's custom resource definitions, for the tests of Berth's admission checks: nothing of it is built or run.
module berth.invalid/controlplane/kueue

go 1.24

require sigs.k8s.io/kueue v0.17.0
