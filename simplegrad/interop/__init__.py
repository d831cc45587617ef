"""Parts that stand between simplegrad and another library; each imports that library when used."""
