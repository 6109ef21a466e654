//! Reflection v1 and v1alpha: what is served, told to clients that have no proto. tonic's own ends the
//! stream at the first name that it does not know; the protocol has an answer for that, and real clients
//! go on after it.

use super::{desc::Registry, services::Services};
use futures::{StreamExt, stream::BoxStream};
use prost::Message;
use prost_reflect::{DescriptorPool, FileDescriptor};
use std::sync::Arc;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::{
    v1::{
        ErrorResponse, ExtensionNumberResponse, ExtensionRequest, FileDescriptorResponse,
        ListServiceResponse, ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest as Asked,
        server_reflection_response::MessageResponse as Answer,
        server_reflection_server::{ServerReflection, ServerReflectionServer},
    },
    v1alpha::{self, server_reflection_server as alpha},
};

/// What is told.
#[derive(Clone)]
pub(crate) struct Reflection {
    /// Every file.
    pool: DescriptorPool,
    /// The services that are listed; else every service of the files would be.
    services: Arc<[String]>,
}

impl Reflection {
    /// Tells the files of the registry, and `services`.
    pub(crate) fn new(registry: &Registry, services: &[String]) -> Self {
        Self { pool: registry.error().parent_pool().clone(), services: services.into() }
    }

    /// Serves it in both versions.
    pub(crate) fn serve(self, routes: Services) -> Services {
        let v1 = ServerReflectionServer::new(self.clone());
        routes.add_service(v1).add_service(alpha::ServerReflectionServer::new(self))
    }

    fn answer(&self, request: ServerReflectionRequest) -> ServerReflectionResponse {
        let answer = self.find(request.message_request.as_ref()).unwrap_or_else(|(code, text)| {
            Answer::ErrorResponse(ErrorResponse { error_code: code as i32, error_message: text })
        });
        ServerReflectionResponse {
            valid_host: request.host.clone(),
            original_request: Some(request),
            message_response: Some(answer),
        }
    }

    fn find(&self, asked: Option<&Asked>) -> Result<Answer, (Code, String)> {
        let none = |what: &str, name: &str| (Code::NotFound, format!("no {what} {name:?}"));
        match asked {
            None => Err((Code::InvalidArgument, "message_request: nothing is asked".into())),
            Some(Asked::ListServices(_)) => {
                let service = self.services.iter().map(|name| ServiceResponse { name: name.clone() });
                Ok(Answer::ListServicesResponse(ListServiceResponse { service: service.collect() }))
            }
            Some(Asked::FileByFilename(name)) => {
                self.pool.get_file_by_name(name).map(file).ok_or_else(|| none("file", name))
            }
            Some(Asked::FileContainingSymbol(name)) => {
                self.symbol(name).map(file).ok_or_else(|| none("symbol", name))
            }
            Some(Asked::FileContainingExtension(ExtensionRequest { containing_type, extension_number })) => {
                let message = self.pool.get_message_by_name(containing_type);
                let number = u32::try_from(*extension_number).unwrap_or_default();
                let extension = message.and_then(|m| m.get_extension(number));
                let found = extension.map(|e| file(e.parent_file()));
                found.ok_or_else(|| none("extension of", containing_type))
            }
            Some(Asked::AllExtensionNumbersOfType(name)) => {
                let message = self.pool.get_message_by_name(name).ok_or_else(|| none("message", name))?;
                let extension_number = message.extensions().map(|e| e.number() as i32).collect();
                let base_type_name = name.clone();
                Ok(Answer::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name,
                    extension_number,
                }))
            }
        }
    }

    /// The file of a service, message, enum or extension, or of a method or field by that of its parent.
    fn symbol(&self, name: &str) -> Option<FileDescriptor> {
        let pool = &self.pool;
        let whole = |name: &str| {
            let service = pool.get_service_by_name(name).map(|d| d.parent_file());
            let message = || pool.get_message_by_name(name).map(|d| d.parent_file());
            let of_enum = || pool.get_enum_by_name(name).map(|d| d.parent_file());
            let extension = || pool.get_extension_by_name(name).map(|d| d.parent_file());
            service.or_else(message).or_else(of_enum).or_else(extension)
        };
        whole(name).or_else(|| {
            let (parent, part) = name.rsplit_once('.')?;
            let service = pool.get_service_by_name(parent).filter(|s| s.methods().any(|m| m.name() == part));
            let message = || pool.get_message_by_name(parent).filter(|m| m.get_field_by_name(part).is_some());
            service.map(|s| s.parent_file()).or_else(|| message().map(|m| m.parent_file()))
        })
    }
}

fn file(file: FileDescriptor) -> Answer {
    // With the options that its own proto type does not know.
    Answer::FileDescriptorResponse(FileDescriptorResponse {
        file_descriptor_proto: vec![file.encode_to_vec()],
    })
}

/// The same message in the other version, whose fields have the same numbers.
fn recoded<T: Message + Default>(message: &impl Message) -> Result<T, Status> {
    T::decode(message.encode_to_vec().as_slice()).map_err(|e| Status::internal(e.to_string()))
}

#[tonic::async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream = BoxStream<'static, Result<ServerReflectionResponse, Status>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let reflection = self.clone();
        let answers = request.into_inner().map(move |r| r.map(|r| reflection.answer(r)));
        Ok(Response::new(answers.boxed()))
    }
}

#[tonic::async_trait]
impl alpha::ServerReflection for Reflection {
    type ServerReflectionInfoStream = BoxStream<'static, Result<v1alpha::ServerReflectionResponse, Status>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<v1alpha::ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let reflection = self.clone();
        let answers = request.into_inner().map(move |r| recoded(&reflection.answer(recoded(&r?)?)));
        Ok(Response::new(answers.boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(asked: Asked) -> Answer {
        const SETS: [&[u8]; 1] = [plexus_proto::DESCRIPTOR];
        let names = ["plexus.v1.TopicService"];
        let registry = Registry::new(&SETS, &names, &[]).unwrap();
        let reflection = Reflection::new(&registry, &names.map(str::to_owned));
        let request = ServerReflectionRequest { message_request: Some(asked), ..Default::default() };
        reflection.answer(request).message_response.unwrap()
    }

    fn name(answer: Answer) -> String {
        let Answer::FileDescriptorResponse(found) = answer else { panic!("{answer:?}") };
        let file = prost_types::FileDescriptorProto::decode(found.file_descriptor_proto[0].as_slice());
        file.unwrap().name().to_owned()
    }

    #[test]
    fn every_kind_of_name_leads_to_its_file() {
        for (symbol, file) in [
            ("plexus.v1.TopicService", "plexus/v1/topics.proto"),
            ("plexus.v1.TopicService.Publish", "plexus/v1/topics.proto"),
            ("plexus.v1.Error", "plexus/v1/common.proto"),
            ("plexus.v1.Error.Violation", "plexus/v1/common.proto"),
            ("plexus.v1.Error.Reason", "plexus/v1/common.proto"),
            ("plexus.v1.Error.message", "plexus/v1/common.proto"),
            ("google.api.http", "google/api/annotations.proto"),
        ] {
            assert_eq!(name(answer(Asked::FileContainingSymbol(symbol.into()))), file, "{symbol}");
        }
        assert_eq!(
            name(answer(Asked::FileByFilename("plexus/v1/nodes.proto".into()))),
            "plexus/v1/nodes.proto"
        );
        let containing_type = "google.protobuf.MethodOptions".to_owned();
        let extension = ExtensionRequest { containing_type, extension_number: 72_295_728 };
        assert_eq!(name(answer(Asked::FileContainingExtension(extension))), "google/api/annotations.proto");
    }

    #[test]
    fn an_unknown_name_is_an_answer_and_not_the_end() {
        for asked in [
            Asked::FileContainingSymbol("no.Such".into()),
            Asked::FileContainingSymbol("plexus.v1.TopicService.Ponder".into()),
            Asked::FileContainingSymbol(String::new()),
            Asked::FileByFilename("no.proto".into()),
            Asked::FileContainingExtension(ExtensionRequest::default()),
            Asked::AllExtensionNumbersOfType("no.Such".into()),
        ] {
            let Answer::ErrorResponse(error) = answer(asked.clone()) else { panic!("{asked:?}") };
            assert_eq!(error.error_code, Code::NotFound as i32, "{asked:?}");
        }
    }

    #[test]
    fn only_what_is_served_is_listed() {
        let Answer::ListServicesResponse(list) = answer(Asked::ListServices("*".into())) else { panic!() };
        assert_eq!(
            list.service.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["plexus.v1.TopicService"]
        );
    }
}
