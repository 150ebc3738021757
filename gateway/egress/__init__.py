"""Requests going out. The only place that opens outbound sockets: every address is judged at the moment of dialling."""
