//! Commands. stdout is data, stderr is for people; exit codes: 0 ok, 1 failed, 2 usage or configuration.
