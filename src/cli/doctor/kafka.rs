//! The brokers, as `runtime` has them looked at.

use super::Check;
use crate::config::Settings;
use crate::runtime::tools;

pub async fn look(settings: &Settings) -> Vec<Check> {
    let findings = match tools::examine_kafka(settings).await {
        Ok(findings) => findings,
        Err(error) => {
            return vec![Check::failed("kafka login", &settings.kafka.brokers, ("password_file", error.to_string(), "mend the file".to_owned()))];
        }
    };
    let check = |finding: tools::Finding| match finding.verdict {
        Ok(detail) => Check::ok(finding.name, &finding.target, detail),
        Err(fault) => Check::failed(finding.name, &finding.target, (fault.class, fault.what, fault.fix)),
    };
    findings.into_iter().map(check).collect()
}
