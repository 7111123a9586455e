package helper

// PreferOwn has a helper of our own preferred to the kernel's.
func (c *Config) PreferOwn() { c.ownFirst = true }
