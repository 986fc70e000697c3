"""`berth device-plugin`: advertises devices of any vendor to the kubelet, under the operator's resource name.

A file or a command lists the devices and their health (`inventory`, `reading`, `sources`); each resource is a device
plugin of its own (`plugin`) on a socket of its own that is registered, and registered again, with the kubelet
(`serving`); `running` puts the parts together.
"""
