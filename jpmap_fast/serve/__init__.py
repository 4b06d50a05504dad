"""A service: pictures restored over HTTP, by replicas that batch what is alike.

It needs Ray Serve, the extra ``serve``, which is imported where a service is started.
"""
