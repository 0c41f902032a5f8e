"""Many runs looked at together: what may be claimed of a recovery time, and which runs to keep."""
