"""A trained model behind a web page and an HTTP interface: `pytorch-dl serve RUN`."""
