"""Files of a service that runs for months: rotated JSON Lines and Parquet."""
