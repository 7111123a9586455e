package cut

// TablePrefix is what the names of our nftables tables begin with: ctd_cut, and where several
// processes share a network namespace ctd_cut_2 and so on.
const TablePrefix = "ctd_cut"

// maxTables is how many processes may share a network namespace, for all of them to have tables that
// the next one deletes if they are killed.
const maxTables = 8
