"""What the services share of Kubernetes: the API client, mirrors of collections, names, and how resources are read.

Objects are the API's own JSON as dictionaries: what a newer server adds is kept, and nothing is lost on the way back.
"""
