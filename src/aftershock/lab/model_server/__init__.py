"""The lab's model server: OpenAI's API over a simulated engine that costs time and GPU memory."""
