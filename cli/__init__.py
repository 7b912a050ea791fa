"""The `anabranch` command and its dashboards, over pure views."""
