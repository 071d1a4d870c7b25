//! An authority of the test's own and what it has signed; and another authority that nobody here trusts.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};

pub struct Certificates {
    pub ca: PathBuf,
    pub other_ca: PathBuf,
}

impl Certificates {
    /// Writes `ca.pem`, `other-ca.pem`, and as Kafka takes them (key, certificate and authority in one file) `broker.pem`, `expired.pem`, and
    /// `elsewhere.pem`, which is another host's.
    pub fn make(folder: &Path) -> Self {
        let (issuer, ca) = authority("Test CA");
        let here = || vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        for (name, hosts, last_year) in
            [("broker.pem", here(), 2100), ("expired.pem", here(), 2020), ("elsewhere.pem", vec!["kafka.example".to_owned()], 2100)]
        {
            let mut params = CertificateParams::new(hosts).unwrap();
            params.distinguished_name.push(DnType::CommonName, "broker");
            params.not_after = date_time_ymd(last_year, 1, 1);
            let key = KeyPair::generate().unwrap();
            let signed = params.signed_by(&key, &issuer).unwrap();
            write(name, &format!("{}{}{ca}", key.serialize_pem(), signed.pem()));
        }
        Self { ca: write("ca.pem", &ca), other_ca: write("other-ca.pem", &authority("Other CA").1) }
    }
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}
