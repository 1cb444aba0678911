//! The local certificate authority: root, regional, zonal and instance certificates shaped like
//! AWS's (nitro.md 5.2) but with subjects of their own, and the leaf certificates issued under
//! them. It is a value: whoever keeps the folder reads and writes the files and holds the lock.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::Error;
use crate::certificate::{self, CaKey, Certificate, Profile, Role};
use crate::show::rfc3339;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// A certificate starts to be valid this long before it is issued, as AWS's do.
const BACKDATE: i64 = 3;
/// The root starts a day earlier: it cannot be renewed when the first clock setting corrects a
/// clock that ran ahead, everything else can.
const ROOT_BACKDATE: i64 = DAY;

/// How long each certificate lives, seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetimes {
    /// 30 years.
    pub root: i64,
    /// 20 days.
    pub regional: i64,
    /// 6 days.
    pub zonal: i64,
    /// 24 hours.
    pub instance: i64,
    /// 3 hours.
    pub leaf: i64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root: 10_957 * DAY,
            regional: 20 * DAY,
            zonal: 6 * DAY,
            instance: DAY,
            leaf: 3 * HOUR,
        }
    }
}

/// Whose authority it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The host's name: organisation in every subject, 1 to 64 characters.
    pub host: String,
    /// The parent's id (`i-<17 hex>`), in the instance certificate's subject.
    pub parent_id: String,
}

/// Source of random bytes for serial numbers and names.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// A level of the chain that has a key on disk.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// Self-signed; what verifiers pin.
    Root,
    /// AWS: one per region. Here it only keeps the shape.
    Regional,
    /// AWS: one per availability zone. Here it only keeps the shape.
    Zonal,
    /// One per parent.
    Instance,
}

impl Level {
    /// From the root down, the order of `cabundle`.
    pub const ALL: [Self; 4] = [Self::Root, Self::Regional, Self::Zonal, Self::Instance];

    const fn certificate_file(self) -> &'static str {
        match self {
            Self::Root => "root.pem",
            Self::Regional => "regional.pem",
            Self::Zonal => "zonal.pem",
            Self::Instance => "instance.pem",
        }
    }

    const fn key_file(self) -> &'static str {
        match self {
            Self::Root => "root-key.pem",
            Self::Regional => "regional-key.pem",
            Self::Zonal => "zonal-key.pem",
            Self::Instance => "instance-key.pem",
        }
    }

    const fn role(self) -> Role {
        match self {
            Self::Root => Role::Authority { path_len: None, crl: true },
            Self::Regional => Role::Authority { path_len: Some(2), crl: true },
            Self::Zonal => Role::Authority { path_len: Some(1), crl: true },
            Self::Instance => Role::Authority { path_len: Some(0), crl: false },
        }
    }

    const fn life(self, lifetimes: &Lifetimes) -> i64 {
        match self {
            Self::Root => lifetimes.root,
            Self::Regional => lifetimes.regional,
            Self::Zonal => lifetimes.zonal,
            Self::Instance => lifetimes.instance,
        }
    }

    fn common_name(self, identity: &Identity, random: Random<'_>) -> String {
        let mut id = || {
            let mut bytes = [0; 8];
            random(&mut bytes);
            hex::encode(bytes)
        };
        match self {
            Self::Root => "local.nitro-enclaves".to_owned(),
            Self::Regional => format!("{}.local.nitro-enclaves", id()),
            Self::Zonal => format!("{}.zonal.local.nitro-enclaves", id()),
            Self::Instance => format!("{}.local.nitro-enclaves", identity.parent_id),
        }
    }
}

/// One file of the authority folder.
#[derive(Debug)]
pub struct AuthorityFile {
    /// Its name, without a folder.
    pub name: &'static str,
    /// PEM.
    pub contents: Zeroizing<Vec<u8>>,
    /// A private key: nobody but its owner may read it.
    pub secret: bool,
}

/// The certificates of one leaf key: what a document carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeafChain {
    /// The leaf certificate, DER.
    pub leaf: Vec<u8>,
    /// Root, regional, zonal, instance, DER each.
    pub cabundle: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Authorised {
    key: CaKey,
    certificate: Certificate,
}

/// The four authorities and their keys.
#[derive(Clone, Debug)]
pub struct Authority {
    /// In the order of [`Level::ALL`].
    levels: [Authorised; 4],
    lifetimes: Lifetimes,
}

impl Authority {
    /// The names of its files, and whether each is secret.
    pub const FILES: [(&'static str, bool); 8] = {
        let mut files = [("", false); 8];
        let mut at = 0;
        while at < 4 {
            files[2 * at] = (Level::ALL[at].certificate_file(), false);
            files[2 * at + 1] = (Level::ALL[at].key_file(), true);
            at += 1;
        }
        files
    };

    /// A new authority with a new root; `now` is unix time.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Crypto`], [`Error::Time`].
    pub fn create(
        identity: &Identity,
        lifetimes: &Lifetimes,
        now: i64,
        random: Random<'_>,
    ) -> Result<Self, Error> {
        let root = issue_level(Level::Root, None, identity, lifetimes, now, random)?;
        let regional = issue_level(Level::Regional, Some(&root), identity, lifetimes, now, random)?;
        let zonal = issue_level(Level::Zonal, Some(&regional), identity, lifetimes, now, random)?;
        let instance =
            issue_level(Level::Instance, Some(&zonal), identity, lifetimes, now, random)?;
        Ok(Self { levels: [root, regional, zonal, instance], lifetimes: *lifetimes })
    }

    /// Puts an authority together from its files (name to contents).
    ///
    /// # Errors
    /// [`Error::FileMissing`], [`Error::Certificate`], [`Error::Key`], and [`Error::Inconsistent`]
    /// when a key is not its certificate's or a certificate not issued by the one above it.
    pub fn from_files(
        files: &BTreeMap<String, Vec<u8>>,
        lifetimes: &Lifetimes,
    ) -> Result<Self, Error> {
        let file = |name: &'static str| {
            files.get(name).map(Vec::as_slice).ok_or(Error::FileMissing { name })
        };
        let read = |level: Level| {
            let (name, key_name) = (level.certificate_file(), level.key_file());
            let certificate = Certificate::from_pem(name, file(name)?)?;
            let key = CaKey::from_pem(key_name, file(key_name)?)?;
            if !key.matches(&certificate)? {
                let detail = format!("{key_name} is not the key of {name}");
                return Err(Error::Inconsistent { detail });
            }
            Ok(Authorised { key, certificate })
        };
        let [root, regional, zonal, instance] = Level::ALL;
        let levels = [read(root)?, read(regional)?, read(zonal)?, read(instance)?];
        for (pair, names) in levels.windows(2).zip(Level::ALL.windows(2)) {
            let [above, below] = pair else { continue };
            let signed = below
                .certificate
                .openssl()?
                .verify(&*above.key.public()?)
                .map_err(Error::crypto("verify a certificate"))?;
            if !signed {
                let [above, below] = [names[0].certificate_file(), names[1].certificate_file()];
                let detail = format!("{below} is not signed by the key of {above}");
                return Err(Error::Inconsistent { detail });
            }
        }
        Ok(Self { levels, lifetimes: *lifetimes })
    }

    /// Its files, to be written all together.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn to_files(&self) -> Result<Vec<AuthorityFile>, Error> {
        let mut files = Vec::with_capacity(Self::FILES.len());
        for (level, authorised) in Level::ALL.into_iter().zip(&self.levels) {
            files.push(AuthorityFile {
                name: level.certificate_file(),
                contents: Zeroizing::new(authorised.certificate.to_pem()?),
                secret: false,
            });
            files.push(AuthorityFile {
                name: level.key_file(),
                contents: authorised.key.to_pem()?,
                secret: true,
            });
        }
        Ok(files)
    }

    /// The root certificate: what a verifier of this host's documents pins.
    #[must_use]
    pub fn root(&self) -> &Certificate {
        self.certificate(Level::Root)
    }

    /// The certificate of one level.
    #[must_use]
    pub fn certificate(&self, level: Level) -> &Certificate {
        &self.levels[level as usize].certificate
    }

    /// Issues anew, with new keys, every level below the root that is due, that names another
    /// parent than `identity` or whose issuer was renewed. Says which; if any, the files must be
    /// written before a leaf is issued. Clocks may step: what is not valid yet is due too.
    ///
    /// # Errors
    /// [`Error::RootOutOfDate`]: a root is never replaced silently. As [`Authority::create`].
    pub fn renew(
        &mut self,
        identity: &Identity,
        now: i64,
        random: Random<'_>,
    ) -> Result<Vec<Level>, Error> {
        let root = self.root();
        if now < root.not_before() || now > root.not_after() {
            return Err(Error::RootOutOfDate {
                not_before: rfc3339(root.not_before()),
                not_after: rfc3339(root.not_after()),
                now: rfc3339(now),
            });
        }
        let other_parent = !self.names_parent(identity)?;
        let mut renewed = Vec::new();
        let mut levels = self.levels.clone();
        for at in 1..Level::ALL.len() {
            let level = Level::ALL[at];
            let due = levels[at].certificate.needs_renewal(now)
                || (level == Level::Instance && other_parent);
            if due || !renewed.is_empty() {
                let issuer = levels[at - 1].clone();
                levels[at] =
                    issue_level(level, Some(&issuer), identity, &self.lifetimes, now, random)?;
                renewed.push(level);
            }
        }
        self.levels = levels;
        Ok(renewed)
    }

    /// Issues a leaf certificate for the key in `public_key` (DER SubjectPublicKeyInfo, P-384),
    /// valid from 3 s before `now`. Its serial number is `slot_id` followed by `now`, 8 bytes each.
    /// Call [`Authority::renew`] first: a leaf never outlives its issuer.
    ///
    /// # Errors
    /// [`Error::Key`], [`Error::Name`], [`Error::Crypto`], [`Error::Time`].
    pub fn issue_leaf(
        &self,
        public_key: &[u8],
        module_id: &str,
        slot_id: u64,
        now: i64,
    ) -> Result<LeafChain, Error> {
        let Authorised { key, certificate } = &self.levels[Level::Instance as usize];
        let public_key = certificate::public_key("The leaf's public key", public_key)?;
        let profile = Profile {
            organisation: &organisation(certificate)?,
            common_name: &format!("{module_id}.local"),
            serial: &[slot_id.to_be_bytes(), now.to_be_bytes()].concat(),
            not_before: now - BACKDATE,
            not_after: (now + self.lifetimes.leaf).min(certificate.not_after()),
            role: Role::Leaf,
        };
        let leaf = certificate::issue(&profile, &public_key, Some(certificate), key)?;
        Ok(LeafChain {
            leaf: leaf.der().to_vec(),
            cabundle: self.levels.iter().map(|level| level.certificate.der().to_vec()).collect(),
        })
    }

    fn names_parent(&self, identity: &Identity) -> Result<bool, Error> {
        let expected = format!("{}.local.nitro-enclaves", identity.parent_id);
        let certificate = self.certificate(Level::Instance).openssl()?;
        let mut names = certificate.subject_name().entries_by_nid(openssl::nid::Nid::COMMONNAME);
        Ok(names.next().is_some_and(|name| name.data().as_slice() == expected.as_bytes()))
    }
}

impl LeafChain {
    /// The leaf certificate with its dates, for [`Certificate::needs_renewal`].
    ///
    /// # Errors
    /// [`Error::Certificate`] when the bytes came from elsewhere and are none.
    pub fn leaf_certificate(&self) -> Result<Certificate, Error> {
        Certificate::from_der("The leaf certificate", &self.leaf)
    }
}

fn issue_level(
    level: Level,
    issuer: Option<&Authorised>,
    identity: &Identity,
    lifetimes: &Lifetimes,
    now: i64,
    random: Random<'_>,
) -> Result<Authorised, Error> {
    let key = CaKey::generate()?;
    let mut serial = [0; 16];
    random(&mut serial);
    // Positive, never zero, always 16 bytes.
    serial[0] = serial[0] & 0x7f | 0x40;
    let backdate = if level == Level::Root { ROOT_BACKDATE } else { BACKDATE };
    let not_after = now + level.life(lifetimes);
    let last = issuer.map_or(not_after, |issuer| issuer.certificate.not_after());
    let profile = Profile {
        organisation: &identity.host,
        common_name: &level.common_name(identity, random),
        serial: &serial,
        not_before: now - backdate,
        not_after: not_after.min(last),
        role: level.role(),
    };
    let signer = issuer.map_or(&key, |issuer| &issuer.key);
    let certificate = certificate::issue(
        &profile,
        &*key.public()?,
        issuer.map(|issuer| &issuer.certificate),
        signer,
    )?;
    Ok(Authorised { key, certificate })
}

/// The organisation of a certificate's subject: the leaf has its issuer's.
fn organisation(certificate: &Certificate) -> Result<String, Error> {
    let certificate = certificate.openssl()?;
    let entry =
        certificate.subject_name().entries_by_nid(openssl::nid::Nid::ORGANIZATIONNAME).next();
    let name = entry.map(|entry| String::from_utf8_lossy(entry.data().as_slice()).into_owned());
    Ok(name.unwrap_or_else(|| "local".to_owned()))
}

#[cfg(test)]
mod tests;
