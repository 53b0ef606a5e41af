"""What brings the record back: copies of messages in another region, exports off-site, and whether either would do."""
