"""Pages of HTML, and which pictures stand on them."""
