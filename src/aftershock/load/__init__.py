"""The load side: the open-loop Locust client and the sentinel."""
